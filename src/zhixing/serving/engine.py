"""The engine: one thread that owns every model, and works on tickets a turn at a time.

Between two turns it takes in new tickets and gives up those that nobody waits for any more; so texts come and go while others are being
written (continuous batching), and a client that leaves frees its place within one turn. A fault in a turn fails the tickets of that model
and no others; the thread goes on.
Source: Yu et al. 2022 (Orca), iteration-level scheduling. Leaves out: priorities, several devices.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from zhixing.core.errors import RunError, ZhixingError
from zhixing.core.log import quiet
from zhixing.serving.limits import Limits
from zhixing.serving.meter import Meter
from zhixing.serving.queue import Ticket
from zhixing.serving.workers import Answerer, Found, Writer, make_worker
from zhixing.tasks.artefact import Artefact


class Engine:
    """Models and the thread that works with them; `submit` and `give_up` may be called from any thread."""

    def __init__(self, artefacts: Mapping[str, Artefact], limits: Limits, meter: Meter, tell: Callable[..., None] = quiet) -> None:
        self.workers: dict[str, Writer | Answerer] = {name: make_worker(each, limits.rows) for name, each in artefacts.items()}
        # Vectors are another work of the same model: a fault of the one ends nothing of the other.
        self.embedders = {name: Answerer(each, vectors=True) for name, each in artefacts.items() if each.embeds}
        self._limits, self._meter, self._tell = limits, meter, tell
        self._change = threading.Condition()
        self._new: deque[Ticket] = deque()
        self._gone: deque[Ticket] = deque()
        self._live: set[Ticket] = set()
        self._waiting = 0
        self._draining = self._closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    @property
    def draining(self) -> bool:
        """Whether it takes no more tickets."""
        return self._draining

    @property
    def alive(self) -> bool:
        """Whether its thread is working or ready to."""
        return self._thread.is_alive()

    def submit(self, ticket: Ticket) -> None:
        """Take a ticket in.

        Raises RunError when too many wait already, or when the server is about to stop.
        """
        with self._change:
            if self._draining or not self.alive:
                raise RunError("serve.draining")
            if self._waiting >= self._limits.queue:
                raise RunError("serve.queue_full", queue=self._limits.queue)
            self._waiting += 1
            self._live.add(ticket)
            self._new.append(ticket)
            self._change.notify_all()

    def give_up(self, ticket: Ticket) -> None:
        """Stop working on a ticket; nothing happens when it is done."""
        with self._change:
            if ticket not in self._live or ticket.cancelled is not None:
                return
            ticket.cancelled = time.monotonic()
            self._gone.append(ticket)
            self._change.notify_all()

    def drain(self) -> None:
        """Take no more tickets; those under way go on."""
        with self._change:
            self._draining = True

    def wait_idle(self, seconds: float) -> bool:
        """Wait until nothing is under way, at most so long; says whether nothing is."""
        with self._change:
            return self._change.wait_for(lambda: not self._live, seconds)

    def close(self) -> None:
        """End the thread after its turn; tickets still under way fail."""
        with self._change:
            self._draining = self._closing = True
            self._change.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while (gone := self._listen()) is not None:
            found: Found = []
            for vectors, workers in ((False, self.workers), (True, self.embedders)):
                for name, worker in workers.items():
                    mine = [ticket for ticket in gone if (ticket.model, ticket.vectors) == (name, vectors)]
                    if worker.busy or mine:
                        found += self._turn(name, worker, mine)
            self._post(found)
        self._post([(ticket, RunError("serve.draining")) for ticket in list(self._live)])

    def _listen(self) -> list[Ticket] | None:
        """Take in what has come, and give what is no longer wanted; waits when there is nothing else to do. None: the end."""
        with self._change:
            self._change.wait_for(lambda: self._closing or self._new or self._gone or any(each.busy for each in self._every()))
            if self._closing:
                return None
            while self._new:
                ticket = self._new.popleft()
                (self.embedders if ticket.vectors else self.workers)[ticket.model].add(ticket)
            gone = list(self._gone)
            self._gone.clear()
        return gone

    def _every(self) -> list[Writer | Answerer]:
        return [*self.workers.values(), *self.embedders.values()]

    def _turn(self, name: str, worker: Writer | Answerer, gone: list[Ticket]) -> Found:
        """Give up what is no longer wanted of one model and let it work for a turn; a fault ends all that it had in hand."""
        start = time.monotonic()
        try:
            if gone:
                worker.drop(gone)
                self._count(gone)
            found = worker.turn() if worker.busy else []
        except Exception as problem:
            self._meter.failures.labels(name).inc()
            with contextlib.suppress(Exception):  # who is told may be gone; the thread goes on
                self._tell("serve.failed", model=name, problem=f"{type(problem).__name__}: {problem}")
            reason = problem if isinstance(problem, ZhixingError) else RunError("serve.failed", model=name)
            found = [(ticket, reason) for ticket in worker.abandon()]
        else:
            self._meter.turn_seconds.observe(time.monotonic() - start)
            (self._meter.tokens if isinstance(worker, Writer) else self._meter.answers).labels(name).inc(len(found))
        if gone:
            self._settle(gone)
        if worker is self.workers[name]:
            self._meter.running.labels(name).set(worker.running)
        return found

    def _count(self, gone: list[Ticket]) -> None:
        """Count tickets whose work has just ended before it was done."""
        now = time.monotonic()
        for ticket in gone:
            self._meter.given_up.inc()
            self._meter.stop_seconds.observe(now - ticket.cancelled)

    def _post(self, found: Found) -> None:
        """Hand what was found to the loops that wait for it, one call a loop, and close the tickets that are done."""
        if not found:
            return
        piles: dict[Ticket, list[Any]] = {}
        for ticket, each in found:
            piles.setdefault(ticket, []).append(each)
        done = []
        for ticket, pile in piles.items():
            if not ticket.answered:
                ticket.answered = True
                self._meter.first_seconds.observe(time.monotonic() - ticket.made)
            failed = isinstance(pile[-1], Exception)
            ticket.left -= ticket.left if failed else sum(1 for each in pile if not isinstance(each, tuple) or each[1].finished)
            if not ticket.left:
                done.append(ticket)
        self._settle(done)
        for loop in {ticket.loop: None for ticket in piles}:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(deliver, [(ticket, pile) for ticket, pile in piles.items() if ticket.loop is loop])

    def _settle(self, done: list[Ticket]) -> None:
        """Count who waits and who is done."""
        with self._change:
            self._live.difference_update(done)
            self._waiting = sum(not ticket.started for ticket in self._live)
            self._meter.waiting.set(self._waiting)
            if done:
                self._change.notify_all()


def deliver(piles: list[tuple[Ticket, list[Any]]]) -> None:
    """Push what was found into its tickets; in the loop's thread."""
    for ticket, pile in piles:
        ticket.push(pile)
