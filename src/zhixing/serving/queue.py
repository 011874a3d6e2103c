"""What passes between the web and the engine: a ticket holds one request's work, and the answers on their way back.

The web's loop makes a ticket and waits on it; the engine's thread works on it and pushes. Nothing here is shared but the ticket, and a
ticket's items are touched by the loop's thread only.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from zhixing.decoding.asking import Sampling


@dataclass(frozen=True)
class Ask:
    """One text to write: the ids to begin with, how to choose, which of the seed's streams to draw from, how many alternatives to tell."""

    prompt: Sequence[int]
    sampling: Sampling
    lane: int = 0
    top: int = 0


class Ticket:
    """One request's work for one model.

    asks    texts to write; or
    items   examples to answer, as the task encodes them; or
    vectors the same, of texts of which vectors are wanted
    """

    def __init__(self, model: str, asks: Sequence[Ask] = (), items: Sequence[Any] = (), vectors: bool = False) -> None:
        self.model = model
        self.asks = asks
        self.items = items
        self.vectors = vectors
        self.loop = asyncio.get_running_loop()
        self.made = time.monotonic()
        self.left = len(asks) or len(items)  # how many texts or examples are not finished; the engine's, as all of the next three
        self.started = False
        self.answered = False
        self.cancelled: float | None = None
        self._arrived: list[Any] = []
        self._waiter: asyncio.Future[None] | None = None

    def push(self, found: Iterable[Any]) -> None:
        """Hand over what the engine found; in the loop's thread."""
        self._arrived.extend(found)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self) -> list[Any]:
        """Wait for what has come since the last time; raises what the engine could not do, after all that it could."""
        if not self._arrived:
            self._waiter = self.loop.create_future()
            await self._waiter
            self._waiter = None
        found = list(itertools.takewhile(lambda each: not isinstance(each, Exception), self._arrived))
        if not found:
            raise self._arrived[0]
        self._arrived = self._arrived[len(found) :]
        return found
