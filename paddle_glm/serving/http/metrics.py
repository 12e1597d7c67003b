"""Figures of a server for Prometheus."""

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from paddle_glm.serving.batching.generation_request import SchedulerObserver
from paddle_glm.serving.batching.scheduler import Scheduler

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics(SchedulerObserver):
    """Observes a scheduler; `text` is what /metrics answers. Names follow vLLM's."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._registry = registry = CollectorRegistry()
        running = Gauge("paddle_glm_requests_running", "Requests that are generated", registry=registry)
        running.set_function(lambda: scheduler.running)
        waiting = Gauge("paddle_glm_requests_waiting", "Requests in the queue", registry=registry)
        waiting.set_function(lambda: scheduler.waiting)
        memory = scheduler.memory
        used = Gauge("paddle_glm_cache_bytes", "Bytes of keys and values", registry=registry)
        used.set_function(lambda: scheduler.cache_nbytes)
        limit = Gauge("paddle_glm_cache_limit_bytes", "What they may take; 0: no limit", registry=registry)
        limit.set(memory.limit or 0)
        stored = Gauge("paddle_glm_prefix_cache_bytes", "Those of ended requests", registry=registry)
        stored.set_function(lambda: memory.store.nbytes)
        self._preemptions = Counter(
            "paddle_glm_preemptions", "Requests that were computed again", registry=registry
        )
        self._responses = Counter(
            "paddle_glm_responses", "HTTP responses by status", ["status"], registry=registry
        )
        self._prompt = Counter("paddle_glm_prompt_tokens", "Tokens of prompts", registry=registry)
        self._reused = Counter(
            "paddle_glm_prefix_cache_hit_tokens",
            "Tokens of prompts that were not read again",
            registry=registry,
        )
        self._generated = Counter("paddle_glm_generation_tokens", "Tokens generated", registry=registry)
        self._first = Histogram(
            "paddle_glm_time_to_first_token_seconds",
            "From a request's arrival to its first token",
            buckets=_SECONDS,
            registry=registry,
        )
        self._between = Histogram(
            "paddle_glm_time_per_output_token_seconds",
            "Between two tokens of a request",
            buckets=_SECONDS,
            registry=registry,
        )
        scheduler.observer = self

    def on_prompt(self, tokens: int) -> None:
        self._prompt.inc(tokens)

    def on_reused(self, tokens: int) -> None:
        self._reused.inc(tokens)

    def on_preempted(self) -> None:
        self._preemptions.inc()

    def on_token(self, seconds: float, is_first: bool) -> None:
        self._generated.inc()
        (self._first if is_first else self._between).observe(seconds)

    def on_response(self, status: int) -> None:
        """Count an HTTP response."""
        self._responses.labels(str(status)).inc()

    def text(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self._registry)
