"""What the server counts, for `/metrics` in the text form of Prometheus; every figure is of this server alone, none is global."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Meter:
    """The figures of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = {"registry": self.registry}
        self.requests = Counter("zhixing_requests", "Requests answered, by route and status.", ["route", "status"], **own)
        self.tokens = Counter("zhixing_tokens", "Tokens chosen.", ["model"], **own)
        self.prompt_tokens = Counter("zhixing_prompt_tokens", "Tokens of prompts that were accepted.", ["model"], **own)
        self.answers = Counter("zhixing_answers", "Examples answered.", ["model"], **own)
        self.given_up = Counter("zhixing_given_up", "Requests whose client left, or whose time was over, before the end.", **own)
        self.failures = Counter("zhixing_failures", "Turns of the engine that failed.", ["model"], **own)
        self.running = Gauge("zhixing_running", "Texts being written at this moment.", ["model"], **own)
        self.waiting = Gauge("zhixing_waiting", "Requests that wait for a place.", **own)
        self.first_seconds = Histogram(
            "zhixing_first_seconds", "From a request's acceptance to its first token or answer.", buckets=SECONDS, **own
        )
        self.turn_seconds = Histogram("zhixing_turn_seconds", "One turn of the engine for one model.", buckets=SECONDS, **own)
        self.stop_seconds = Histogram(
            "zhixing_stop_seconds", "From the moment a request is given up to the end of its work.", buckets=SECONDS, **own
        )

    def page(self) -> bytes:
        """Give everything as text."""
        return generate_latest(self.registry)
