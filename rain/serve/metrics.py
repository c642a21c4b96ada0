"""Counters for Prometheus; no label has a value that a client can choose."""

from __future__ import annotations

from functools import partial

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
        counter, gauge = partial(Counter, registry=self.registry), partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry, buckets=SECONDS)
        self.requests = counter("rain_requests", "requests answered", ["route", "status"])
        self.seconds = histogram("rain_request_seconds", "time to the end of a request, refused ones included")
        self.first_commit = histogram("rain_first_commit_seconds", "time to the first text of an answer")
        self.disconnects = counter("rain_disconnects", "clients that left before the end of their answer")
        self.simulations = counter("rain_simulations", "simulations of finished answers")
        self.prompt_tokens = counter("rain_prompt_tokens", "tokens of answered prompts")
        self.completion_tokens = counter("rain_completion_tokens", "tokens of answers")
        gauge("rain_running", "searches that run").set_function(lambda: admission.running)
        gauge("rain_waiting", "searches that wait").set_function(lambda: admission.waiting)
        self._engine = {
            "passes": gauge("rain_engine_passes", "forward passes so far"),
            "model_seconds": gauge("rain_engine_model_seconds", "time in the model so far"),
            "evictions": gauge("rain_engine_evictions", "how often cached tokens were dropped for lack of room"),
        }
        self._embedding = gauge("rain_embedding_seconds", "time in the sentence encoder so far")

    def text(self, rain: Rain | None) -> bytes:
        """Return everything in Prometheus's format, with what the models have done so far (None: nothing yet)."""
        if rain:
            self._embedding.set(rain.aligner.parts.encoder.seconds)
            for name, value in rain.aligner.engine.stats()._asdict().items():
                self._engine[name].set(value)
        return generate_latest(self.registry)
