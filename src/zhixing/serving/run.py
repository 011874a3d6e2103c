"""A server from its start to its end: models opened, a thread for the engine, one for the web, and a quiet end when it is asked to stop.

Asked to stop (SIGTERM, SIGINT), it takes no new work, says so with 503, finishes what is under way for at most `drain_seconds`, and closes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import uvicorn

from zhixing.core.errors import RunError
from zhixing.core.log import quiet
from zhixing.core.stop import Stop, Stopped
from zhixing.data.schema import Image, Sound
from zhixing.serving.api import make_app
from zhixing.serving.door import Door
from zhixing.serving.engine import Engine
from zhixing.serving.limits import Limits
from zhixing.serving.meter import Meter
from zhixing.serving.served import Served

POLL_SECONDS = 0.1
SWEEP_SECONDS = 1
CLOSE_SECONDS = 5  # for answers that are finished to reach their clients
HEAD_BYTES = 32 << 10


class Server:
    """A server under way in threads of its own.

    models   what `open_models` gives
    address  (host, port): where it listens
    """

    def __init__(self, models: dict[str, Served], door: Door, limits: Limits, port: int, tell: Callable[..., None] = quiet) -> None:
        self.meter = Meter()
        self.models = models
        kinds = [kind for each in self.models.values() for kind in each.artefact.task.schema.fields.values()]
        if any(isinstance(kind, Sound | Image) for kind in kinds):  # as large a file as elsewhere, written as a data URL
            limits = replace(limits, predict_bytes=limits.sound_bytes * 4 // 3 + (1 << 12))
        self.limits = limits
        self.engine = Engine({name: each.artefact for name, each in self.models.items()}, limits, self.meter, tell)
        self.app = make_app(self.models, self.engine, door, limits, self.meter, tell)
        config = uvicorn.Config(
            self.app,
            host=door.host,
            port=port,
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            limit_concurrency=2 * limits.requests,
            timeout_keep_alive=limits.idle_seconds,
            callback_notify=self._sweep,
            timeout_notify=SWEEP_SECONDS,
            timeout_graceful_shutdown=CLOSE_SECONDS,
            h11_max_incomplete_event_size=HEAD_BYTES,
        )
        logging.getLogger("uvicorn").addHandler(logging.NullHandler())  # what it has to say is told as an error of ours
        self._web = uvicorn.Server(config)
        self._problem: BaseException | None = None
        self._resting: dict[Any, tuple[Any, float]] = {}
        self._thread = threading.Thread(target=self._serve, name="web", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether it can answer."""
        return self._thread.is_alive() and self.engine.alive

    def start(self) -> tuple[str, int]:
        """Begin to listen; gives the address.

        Raises RunError when the address cannot be had.
        """
        self.engine.start()
        self._thread.start()
        while not self._web.started and self._thread.is_alive():
            self._thread.join(0.01)
        if not self._web.started:
            self.engine.close()
            problem = self._problem.__context__ if isinstance(self._problem, SystemExit) else self._problem
            reason = getattr(problem, "strerror", None) or str(problem)
            raise RunError("serve.address", host=self._web.config.host, port=self._web.config.port, problem=reason)
        host, port, *_ = self._web.servers[0].sockets[0].getsockname()
        return host, port

    def stop(self, seconds: float) -> bool:
        """Finish what is under way, for at most so long, and close; says whether all of it was finished."""
        self.engine.drain()
        finished = self.engine.wait_idle(seconds)
        self.engine.close()
        self._web.should_exit = True
        self._thread.join()
        return finished

    async def _sweep(self) -> None:
        """Close the connections that have rested too long: uvicorn waits for ever for a request that never comes, or never ends."""
        now, before = time.monotonic(), self._resting
        self._resting = {}
        for line in list(self._web.server_state.connections):
            if line.cycle is None or line.cycle.response_complete:
                last, since = before.get(line, (None, now))
                self._resting[line] = (line.cycle, since if last is line.cycle else now)
                if now - self._resting[line][1] > self.limits.idle_seconds:
                    line.transport.close()

    def _serve(self) -> None:
        try:
            self._web.run()
        except BaseException as problem:  # uvicorn quits where it cannot listen
            self._problem = problem


def serve(
    models: dict[str, Served], door: Door, limits: Limits, port: int, tell: Callable[..., None], stop: Stop, ready: Callable[..., Any]
) -> None:
    """Serve models until asked to stop.

    models  what `open_models` gives
    ready   called with the url and the models' names, once requests are answered

    Raises Stopped when the stop cut something off; RunError when the address cannot be had or the server ended by itself.
    """
    server = Server(models, door, limits, port, tell)
    host, port = server.start()
    ready(url=url(host, port), models=list(server.models))
    while not stop and server.alive:
        threading.Event().wait(POLL_SECONDS)
    if not stop:
        server.stop(0)
        raise RunError("serve.ended")
    tell("serve.draining", seconds=limits.drain_seconds)
    if not server.stop(limits.drain_seconds):
        raise Stopped(stop.number)


def url(host: str, port: int) -> str:
    """Write an address as a URL."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
