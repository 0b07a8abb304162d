"""What Prometheus reads at /metrics."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


@dataclass(frozen=True)
class ModelMetrics:
    """Those of Metrics that are counted for each model."""

    first_token: Histogram
    prompt_tokens: Counter
    tokens: Counter
    steps: Counter
    batch_size: Gauge
    queue: Gauge


class Metrics:
    """The figures of one server, in a registry of its own: two servers of a process do not mix."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        model = ["model"]
        self.requests = Counter(
            "nanogpt_requests", "Requests by path and status", ["path", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "nanogpt_request_seconds", "Arrival to end of the answer", ["path"], buckets=SECONDS, registry=registry
        )
        self.first_token = Histogram(
            "nanogpt_first_token_seconds", "Arrival to the first token", model, buckets=SECONDS, registry=registry
        )
        self.prompt_tokens = Counter("nanogpt_prompt_tokens", "Tokens read", model, registry=registry)
        self.tokens = Counter("nanogpt_generated_tokens", "Tokens written", model, registry=registry)
        self.steps = Counter("nanogpt_steps", "Steps of the batch", model, registry=registry)
        self.batch_size = Gauge("nanogpt_batch_size", "Texts that are being written", model, registry=registry)
        self.queue = Gauge("nanogpt_queue", "Requests that wait for a place", model, registry=registry)
        self.running = Gauge("nanogpt_running_requests", "Requests that are being answered", registry=registry)
        self.loaded = Gauge("nanogpt_loaded_models", "Models in memory", registry=registry)

    def of(self, model: str) -> ModelMetrics:
        """The figures of one model: looked up once, not at each token."""
        return ModelMetrics(
            self.first_token.labels(model),
            self.prompt_tokens.labels(model),
            self.tokens.labels(model),
            self.steps.labels(model),
            self.batch_size.labels(model),
            self.queue.labels(model),
        )

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
