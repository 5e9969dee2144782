"""Counts of one variant and one endpoint: plain numbers, cheap to add to, read by the statistics and by Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

from localml.core.serving.gateway_stats import LATENCY_BOUNDS, VariantStats


class VariantCounts:
    """What happened to the requests that a variant was chosen for."""

    __slots__ = ("errors", "inflight", "latency_counts", "latency_sum", "requests", "retries", "statuses")

    def __init__(self) -> None:
        self.requests = 0
        self.inflight = 0
        self.retries = 0
        self.statuses: Counter[int] = Counter()
        self.errors: Counter[str] = Counter()
        self.latency_counts = [0] * (len(LATENCY_BOUNDS) + 1)
        self.latency_sum = 0.0

    def record(self, status: int, error: str | None, seconds: float) -> None:
        """One request is over. ``status`` is 0 where the client got none."""
        self.requests += 1
        if status:
            self.statuses[status] += 1
        if error is not None:
            self.errors[error] += 1
        self.latency_counts[bisect_left(LATENCY_BOUNDS, seconds)] += 1
        self.latency_sum += seconds

    def stats(self, name: str) -> VariantStats:
        """A snapshot."""
        return VariantStats(
            name=name,
            requests=self.requests,
            inflight=self.inflight,
            statuses={str(status): count for status, count in sorted(self.statuses.items())},
            errors=dict(sorted(self.errors.items())),
            retries=self.retries,
            latency_counts=tuple(self.latency_counts),
            latency_sum=round(self.latency_sum, 6),
        )
