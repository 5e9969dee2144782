"""Prometheus metrics of a server, in a registry of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """What is counted for one model.

    Args:
        model: the model's name, a label of every series.
    """

    def __init__(self, model: str) -> None:
        self.registry = CollectorRegistry()
        self._model = model
        requests = Counter(
            "onnx_server_requests", "Inference requests by HTTP status.", ["model", "status"], registry=self.registry
        )
        self._requests = requests
        self._by_status = {status: requests.labels(model, str(status)) for status in (200, 400, 503)}
        own: dict[str, Any] = {"labelnames": ["model"], "registry": self.registry}
        self._seconds = Histogram(
            "onnx_server_request_seconds", "From request to answer.", buckets=_SECONDS, **own
        ).labels(model)
        self._rows = Histogram("onnx_server_batch_rows", "Rows of a run of the model.", buckets=_ROWS, **own).labels(
            model
        )
        self._queue = Gauge("onnx_server_queue_length", "Requests that wait to be run.", **own).labels(model)
        self._ready = Gauge("onnx_server_ready", "1 while the model takes requests.", **own).labels(model)
        restarts = Counter("onnx_server_worker_restarts", "Worker processes that died and came back.", **own)
        self.restarts = restarts.labels(model)
        loads = Counter("onnx_server_loads", "Versions loaded, by result.", ["model", "result"], registry=self.registry)
        self.loaded, self.refused = loads.labels(model, "loaded"), loads.labels(model, "refused")

    def watch(self, queue_length: Callable[[], int], ready: Callable[[], bool]) -> None:
        """Read these two whenever the metrics are asked for."""
        self._queue.set_function(queue_length)
        self._ready.set_function(lambda: float(ready()))

    def request(self, status: int, seconds: float) -> None:
        """Count an inference request."""
        counter = self._by_status.get(status)
        if counter is None:
            counter = self._by_status[status] = self._requests.labels(self._model, str(status))
        counter.inc()
        self._seconds.observe(seconds)

    def batch(self, rows: int) -> None:
        """Count a run of the model."""
        self._rows.observe(rows)

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)
