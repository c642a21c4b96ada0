"""Counters for Prometheus; no label has a value that a client can choose."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from rain.library import Rain
from rain.serve.admission import Admission

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)


class Metrics:
    """What the server has done.

    Args:
        admission: of searches.
    """

    def __init__(self, admission: Admission) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("rain_requests", "requests answered", ["route", "status"], registry=self.registry)
        self.seconds = self._histogram("rain_request_seconds", "time to the end of a request, refused ones included")
        self.first_commit = self._histogram("rain_first_commit_seconds", "time to the first text of an answer")
        self.disconnects = self._counter("rain_disconnects", "clients that left before the end of their answer")
        self.simulations = self._counter("rain_simulations", "simulations of finished answers")
        self.prompt_tokens = self._counter("rain_prompt_tokens", "tokens of answered prompts")
        self.completion_tokens = self._counter("rain_completion_tokens", "tokens of answers")
        Gauge("rain_running", "searches that run", registry=self.registry).set_function(lambda: admission.running)
        Gauge("rain_waiting", "searches that wait", registry=self.registry).set_function(lambda: admission.waiting)
        self._engine = {
            name: Gauge(f"rain_engine_{name}", text, registry=self.registry)
            for name, text in (
                ("passes", "forward passes so far"),
                ("model_seconds", "time in the model so far"),
                ("evictions", "how often cached tokens were dropped for lack of room"),
            )
        }
        self._embedding = Gauge("rain_embedding_seconds", "time in the sentence encoder so far", registry=self.registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, registry=self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(name, text, registry=self.registry, buckets=SECONDS)

    def text(self, rain: Rain | None) -> bytes:
        """Return everything in Prometheus's format, with what the models have done so far (None: nothing yet)."""
        if rain:
            self._embedding.set(rain.aligner.parts.encoder.seconds)
            for name, value in rain.aligner.engine.stats()._asdict().items():
                self._engine[name].set(value)
        return generate_latest(self.registry)
