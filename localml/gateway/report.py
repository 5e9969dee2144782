"""What the gateway says of itself: the statistics file and Prometheus' text, both from the same counts."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from pathlib import Path

from prometheus_client.core import (
    CollectorRegistry,
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from localml.core.serving.gateway_stats import (
    LATENCY_BOUNDS,
    EndpointStats,
    GatewayStats,
    ReplicaStats,
    VariantStats,
    write_stats,
)
from localml.gateway.routing import Endpoint, Router

log = logging.getLogger("localml.gateway")

WRITE_EVERY = 1.0
"""Seconds between two writings of the statistics; nothing is written when nothing changed."""
METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


class Report:
    """The gateway's counts as a whole.

    Args:
        connections: says how many clients are connected.
    """

    def __init__(self, data: Path, router: Router, connections: Callable[[], int]) -> None:
        self._data, self._router, self._connections = data, router, connections
        self._started_at = time.time()
        self.table_error: str | None = None
        self.port_error: str | None = None
        self.unrouted = 0
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Future[None] | None = None
        self._dirty = False

    def snapshot(self) -> GatewayStats:
        """Everything as it is now."""
        return GatewayStats(
            pid=os.getpid(),
            started_at=self._started_at,
            written_at=time.time(),
            generation=self._router.generation,
            table_error=self.table_error,
            port_error=self.port_error,
            connections=self._connections(),
            unrouted=self.unrouted,
            endpoints=tuple(_endpoint(one) for one in self._router.endpoints.values()),
        )

    def changed(self) -> None:
        """Something is different: it will be on disk within :data:`WRITE_EVERY` seconds."""
        self._dirty = True
        if self._timer is None and self._writing is None:
            self._timer = asyncio.get_running_loop().call_later(WRITE_EVERY, self.write)

    def write(self) -> None:
        """Write now, on another thread: the disk may be slow."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None:
            self._dirty = True
            return
        self._dirty = False
        loop = asyncio.get_running_loop()
        self._writing = loop.run_in_executor(None, write_stats, self._data, self.snapshot())
        self._writing.add_done_callback(self._written)

    def _written(self, writing: asyncio.Future[None]) -> None:
        self._writing = None
        if not writing.cancelled() and (error := writing.exception()) is not None:
            log.error("the statistics cannot be written: %s", error)
        if self._dirty:
            self.changed()

    def close(self) -> None:
        """Write for the last time."""
        if self._timer is not None:
            self._timer.cancel()
        try:
            write_stats(self._data, self.snapshot())
        except OSError as error:
            log.error("the statistics cannot be written: %s", error)

    def metrics(self) -> bytes:
        """All counts in Prometheus' text format (:data:`METRICS_TYPE`)."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Families(self.snapshot()))
        return bytes(generate_latest(registry))


def _endpoint(endpoint: Endpoint) -> EndpointStats:
    replicas = tuple(
        ReplicaStats(
            id=one.id,
            variant=one.variant,
            url=one.url,
            state="gone" if one.retired else one.state.value,
            inflight=one.inflight,
            healthy=not one.failures,
        )
        for one in endpoint.replicas()
    )
    return EndpointStats(
        name=endpoint.name,
        inflight=endpoint.gate.inside,
        queued=endpoint.gate.waiting,
        refused=dict(sorted(endpoint.refused.items())),
        last_request_at=endpoint.last_request_at,
        variants=tuple(one.counts.stats(one.name) for one in endpoint.variants.values()),
        replicas=replicas,
    )


class _Families(Collector):
    def __init__(self, stats: GatewayStats) -> None:
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        stats = self._stats
        yield _gauge("connections", "Clients that are connected.", stats.connections)
        yield _gauge("table_generation", "Generation of the route table in use.", stats.generation)
        yield _gauge("table_refused", "1 if the newest route table is not valid.", int(stats.table_error is not None))
        yield CounterMetricFamily("localml_gateway_unrouted", "Requests for no endpoint.", value=stats.unrouted)
        yield from _of_endpoints(stats)
        yield from _of_variants([(one.name, variant) for one in stats.endpoints for variant in one.variants])
        up = _gauge("replica_up", "1 while the replica may get requests.", labels=["endpoint", "variant", "replica"])
        for endpoint in stats.endpoints:
            for replica in endpoint.replicas:
                up.add_metric(
                    [endpoint.name, replica.variant, replica.id], int(replica.healthy and replica.state == "ready")
                )
        yield up


def _gauge(name: str, text: str, value: float | None = None, labels: list[str] | None = None) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"localml_gateway_{name}", text, value=value, labels=labels)


def _of_endpoints(stats: GatewayStats) -> Iterator[Metric]:
    inflight = _gauge("inflight", "Requests at replicas.", labels=["endpoint"])
    queued = _gauge("queued", "Requests that wait.", labels=["endpoint"])
    refused = CounterMetricFamily(
        "localml_gateway_refused", "Requests that no replica saw, by reason.", labels=["endpoint", "reason"]
    )
    for endpoint in stats.endpoints:
        inflight.add_metric([endpoint.name], endpoint.inflight)
        queued.add_metric([endpoint.name], endpoint.queued)
        for why, count in endpoint.refused.items():
            refused.add_metric([endpoint.name, why], count)
    yield from (inflight, queued, refused)


def _of_variants(variants: list[tuple[str, VariantStats]]) -> Iterator[Metric]:
    labels = ["endpoint", "variant"]
    requests = CounterMetricFamily("localml_gateway_requests", "Answers by status.", labels=[*labels, "status"])
    errors = CounterMetricFamily("localml_gateway_errors", "Failures by reason.", labels=[*labels, "reason"])
    retries = CounterMetricFamily("localml_gateway_retries", "Attempts beyond the first.", labels=labels)
    seconds = HistogramMetricFamily(
        "localml_gateway_request_seconds", "From a request's head to the end of its answer.", labels=labels
    )
    bounds = [*(str(bound) for bound in LATENCY_BOUNDS), "+Inf"]
    for endpoint, variant in variants:
        values = [endpoint, variant.name]
        for status, count in variant.statuses.items():
            requests.add_metric([*values, status], count)
        for why, count in variant.errors.items():
            errors.add_metric([*values, why], count)
        retries.add_metric(values, variant.retries)
        sums = accumulate(variant.latency_counts)
        seconds.add_metric(values, list(zip(bounds, sums, strict=True)), variant.latency_sum)
    yield from (requests, errors, retries, seconds)
