"""What the gateway counts, read from its file: the load for scaling, errors for roll-backs, samples for charts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from localml.control.serving.routes import replica_id
from localml.control.serving.scaling import Load
from localml.core.serving.gateway_stats import (
    LATENCY_BOUNDS,
    EndpointStats,
    GatewayStats,
    VariantStats,
    read_stats,
    stats_path,
)
from localml.core.serving.routes_table import wake_folder
from localml.core.serving.tables import VariantSample

SAMPLE_S = 10.0
"""Seconds between two samples of a variant, at least."""
_MOST_SAMPLED = 1_000
"""Variants whose last sample is remembered; of others it is made of the records again."""
_NOT_OURS = frozenset({"client_gone"})


@dataclass(frozen=True, slots=True)
class Counted:
    """A variant's counts since the gateway's start."""

    requests: int
    errors: int
    latency_sum: float
    buckets: tuple[int, ...]

    @classmethod
    def of(cls, found: VariantStats) -> Counted:
        """The gateway's own figures; an error is an answer from 500 up, or none."""
        answered = sum(count for status, count in found.statuses.items() if int(status) >= 500)
        broken = sum(count for reason, count in found.errors.items() if reason not in _NOT_OURS)
        return cls(found.requests, max(answered, broken), found.latency_sum, found.latency_counts)


_Sampled = tuple[tuple[int, float], float, Counted]
"""The gateway's process, when, and what it had counted by then."""


class Statistics:
    """The newest statistics of a data directory's gateway.

    Args:
        recorded: what the samples of a variant since a time add up to: requests, errors, seconds.
    """

    def __init__(self, data: Path, recorded: Callable[[int, float], tuple[int, int, float]]) -> None:
        self._data, self._recorded = data, recorded
        self._stamp: tuple[int, int] | None = None
        self._newest: GatewayStats | None = None
        self._endpoints: dict[str, EndpointStats] = {}
        self._sampled: dict[int, _Sampled] = {}  # by variant

    def refresh(self) -> bool:
        """Read the file if it is another one than before. Whether it was."""
        try:
            seen = stats_path(self._data).stat()
        except OSError:
            return False
        if (seen.st_mtime_ns, seen.st_ino) == self._stamp:
            return False
        self._stamp = (seen.st_mtime_ns, seen.st_ino)
        self._newest = read_stats(self._data)
        self._endpoints = {one.name: one for one in self._newest.endpoints} if self._newest is not None else {}
        return True

    @property
    def generation(self) -> int:
        """Of the route table that the gateway uses; -1 when nothing is known."""
        return self._newest.generation if self._newest is not None else -1

    @property
    def table_error(self) -> str | None:
        """Why the gateway refused the newest table."""
        return self._newest.table_error if self._newest is not None else None

    def waking(self) -> set[str]:
        """Endpoints whose requests are held until a replica is ready."""
        try:
            return {path.name for path in wake_folder(self._data).iterdir() if not path.name.startswith(".")}
        except OSError:
            return set()

    def woken(self, route: str) -> None:
        """It was seen to: take its wake file away."""
        (wake_folder(self._data) / route).unlink(missing_ok=True)

    def load(self, route: str, waking: bool) -> Load:
        """The load of an endpoint."""
        found = self._endpoints.get(route)
        if found is None:
            return Load(waking=waking)
        return Load(float(found.inflight + found.queued), found.last_request_at, waking)

    def counted(self, route: str, variant: str) -> Counted | None:
        """A variant's counts; None while the gateway has none."""
        found = self._endpoints.get(route)
        for one in found.variants if found is not None else ():
            if one.name == variant:
                return Counted.of(one)
        return None

    def inflight(self, route: str, number: int, attempt: int | None) -> int:
        """Requests at a replica now."""
        found, name = self._endpoints.get(route), replica_id(number, attempt)
        return sum(one.inflight for one in found.replicas if one.id == name) if found is not None else 0

    def sample(
        self, route: str, variant: str, variant_id: int, now: float, *, last: bool = False
    ) -> VariantSample | None:
        """What the variant did since the last sample, if enough time has passed and it did anything.

        Args:
            last: the variant is leaving; there is no time to wait for.
        """
        counts = self.counted(route, variant)
        if counts is None or self._newest is None:
            return None
        process = (self._newest.pid, self._newest.started_at)
        before = self._sampled.get(variant_id)
        if before is None or before[0] != process:
            # an earlier server may have taken samples of this process; the rest is what nobody has seen yet
            requests, errors, seconds = self._recorded(variant_id, self._newest.started_at)
            buckets = counts.buckets if requests else (0,) * len(counts.buckets)  # of a part they are not known
            before = (process, now, Counted(requests, errors, seconds, buckets))
            self._note(variant_id, before)
        if (now - before[1] < SAMPLE_S and not last) or counts.requests <= before[2].requests:
            return None
        self._note(variant_id, (process, now, counts))
        return _between(variant_id, before[2], counts, self.inflight_of(route, variant), now)

    def _note(self, variant_id: int, sampled: _Sampled) -> None:
        """Remember a sample; of many variants those are forgotten that did nothing for longest."""
        self._sampled.pop(variant_id, None)
        self._sampled[variant_id] = sampled
        if len(self._sampled) > _MOST_SAMPLED:
            del self._sampled[next(iter(self._sampled))]

    def inflight_of(self, route: str, variant: str) -> int:
        """Requests at a variant now."""
        found = self._endpoints.get(route)
        return sum(one.inflight for one in found.variants if one.name == variant) if found is not None else 0


def _between(variant_id: int, old: Counted, new: Counted, in_flight: int, now: float) -> VariantSample:
    requests = new.requests - old.requests
    buckets = [after - before for before, after in zip(old.buckets, new.buckets, strict=False)]
    return VariantSample(
        variant_id=variant_id,
        at=int(now * 1000),
        requests=requests,
        errors=max(0, new.errors - old.errors),
        latency=max(0.0, new.latency_sum - old.latency_sum) / requests,
        p50=quantile(buckets, 0.5),
        p99=quantile(buckets, 0.99),
        in_flight=in_flight,
    )


def quantile(buckets: Sequence[int], share: float) -> float | None:
    """Seconds below which ``share`` of the requests took, interpolated within the histogram's bucket."""
    total = sum(buckets)
    if total <= 0:
        return None
    wanted, seen, lower = share * total, 0.0, 0.0
    for count, upper in zip(buckets, (*LATENCY_BOUNDS, LATENCY_BOUNDS[-1]), strict=False):
        if count and seen + count >= wanted:
            return lower + (upper - lower) * (wanted - seen) / count
        seen += count
        lower = upper
    return LATENCY_BOUNDS[-1]
