"""What the engine does for one model, a turn at a time: a Writer writes texts side by side, an Answerer answers examples.

Both are used by the engine's thread only. A turn is short, so that tickets of other models, and tickets that come or are given up
meanwhile, wait no longer than that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from zhixing.serving.queue import Ticket
from zhixing.tasks.artefact import Artefact

Found = list[tuple[Ticket, Any]]
ANSWERED_AT_ONCE = 64  # examples of one turn
EMBEDDED_AT_ONCE = 8  # texts of one turn, which may be long


class Writer:
    """Texts under way with one language model; what it finds of a ticket are pairs (place of the ask, Event)."""

    def __init__(self, artefact: Artefact, rows: int) -> None:
        self.artefact = artefact
        self.rows = rows
        self._machine = self._make()
        self._waiting: deque[tuple[Ticket, int]] = deque()  # how many of the ticket's texts have been begun
        self._running: dict[int, tuple[Ticket, int]] = {}

    def _make(self) -> Any:
        from zhixing.decoding.generate import Machine  # torch: a server of models that only answer needs none

        return Machine(self.artefact.model, self.artefact.tokenizer)

    @property
    def running(self) -> int:
        """How many texts are being written."""
        return len(self._running)

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._running or self._waiting)

    def add(self, ticket: Ticket) -> None:
        """Put a ticket behind those that wait."""
        self._waiting.append((ticket, 0))

    def drop(self, tickets: Iterable[Ticket]) -> None:
        """Give up tickets: nothing more is written for them."""
        gone = set(tickets)
        self._waiting = deque(each for each in self._waiting if each[0] not in gone)
        rows = [row for row, (ticket, _) in self._running.items() if ticket in gone]
        self._machine.retire(*rows)
        for row in rows:
            del self._running[row]

    def turn(self) -> Found:
        """Let waiting texts in where there is room, one of each ticket in turn, and write one token of each."""
        while self._waiting and len(self._running) < self.rows:
            ticket, place = self._waiting[0]  # it goes only once it runs: a fault must find its ticket in one of the two
            ask = ticket.asks[place]
            ticket.started = True
            self._running[self._machine.admit(ask.prompt, ask.sampling, ask.lane, ask.top)] = (ticket, place)
            self._waiting.popleft()
            if place + 1 < len(ticket.asks):
                self._waiting.append((ticket, place + 1))
        found: Found = []
        for event in self._machine.step():
            ticket, place = self._running[event.row]
            if event.finished:
                del self._running[event.row]
            found.append((ticket, (place, event)))
        return found

    def abandon(self) -> list[Ticket]:
        """Forget everything, after a fault that leaves the rows in doubt, and give the tickets that were under way."""
        tickets = {ticket: None for ticket, *_ in (*self._running.values(), *self._waiting)}
        self._machine = self._make()
        self._waiting.clear()
        self._running.clear()
        return list(tickets)


class Answerer:
    """Examples under way with one model that answers; what it finds of a ticket are its answers, in their order.

    vectors  the examples are texts, and what is found are their vectors
    """

    def __init__(self, artefact: Artefact, vectors: bool = False) -> None:
        self.artefact = artefact
        self.vectors = vectors
        self._waiting: deque[tuple[Ticket, int]] = deque()  # how many of the ticket's examples are answered

    @property
    def running(self) -> int:
        """How many texts are being written: none."""
        return 0

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._waiting)

    def add(self, ticket: Ticket) -> None:
        """Put a ticket's examples behind those that wait."""
        self._waiting.append((ticket, 0))

    def drop(self, tickets: Iterable[Ticket]) -> None:
        """Give up tickets: nothing more is answered for them."""
        gone = set(tickets)
        self._waiting = deque(each for each in self._waiting if each[0] not in gone)

    def turn(self) -> Found:
        """Answer some examples of the ticket that came first, then let the next one have its turn."""
        ticket, start = self._waiting[0]
        ticket.started = True
        some = ticket.items[start : start + (EMBEDDED_AT_ONCE if self.vectors else ANSWERED_AT_ONCE)]
        task, model = self.artefact.task, self.artefact.model
        answers = list(self.artefact.embed(some) if self.vectors else task.answers(model, some, self.artefact.tokenizer))
        self._waiting.popleft()
        if start + len(some) < len(ticket.items):
            self._waiting.append((ticket, start + len(some)))
        return [(ticket, answer) for answer in answers]

    def abandon(self) -> list[Ticket]:
        """Forget everything and give the tickets that were under way."""
        tickets = [ticket for ticket, _ in self._waiting]
        self._waiting.clear()
        return tickets


def make_worker(artefact: Artefact, rows: int) -> Writer | Answerer:
    """Give the worker that a model's task needs."""
    return Writer(artefact, rows) if artefact.task.name == "language" else Answerer(artefact)
