"""What the gateway tells the control plane: counts, times and load, as one file, and where it listens.

Counts start at zero with each process; ``pid`` and ``started_at`` tell one process from the next.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from localml.core.serving.routes_table import FOLDER, write_whole

LATENCY_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper ends, in seconds, of the latency histogram's buckets; a last bucket takes the rest."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ReplicaStats(_Frozen):
    """One replica. Those that left the table are shown until their last request is over. ``healthy`` is False from
    a failure (no connection, a broken answer, a failed check) to its next success."""

    id: str
    variant: str
    url: str
    state: str
    inflight: int
    healthy: bool


class VariantStats(_Frozen):
    """One variant, since the process started.

    Args:
        requests: finished ones that were given to a replica.
        statuses: HTTP status of the answer -> how many.
        errors: reason -> how many (``unreachable``, ``timeout``, ``cut``, ``client_gone`` ...).
        retries: attempts beyond the first.
        latency_counts: requests per bucket of :data:`LATENCY_BOUNDS`, not cumulative, the last for all above.
        latency_sum: seconds, from a request's head to the end of its answer, waiting included.
    """

    name: str
    requests: int
    inflight: int
    statuses: dict[str, int]
    errors: dict[str, int]
    retries: int
    latency_counts: tuple[int, ...]
    latency_sum: float


class EndpointStats(_Frozen):
    """One endpoint.

    Args:
        inflight: requests at replicas now.
        queued: requests that wait for a place or for a replica now.
        refused: reason -> requests that no replica saw (``unauthenticated``, ``too_large``, ``queue_full`` ...).
        last_request_at: Unix time of the last request that was let in; None if none was.
    """

    name: str
    inflight: int
    queued: int
    refused: dict[str, int]
    last_request_at: float | None
    variants: tuple[VariantStats, ...]
    replicas: tuple[ReplicaStats, ...]


class GatewayStats(_Frozen):
    """All of it. ``generation`` is that of the table in use.

    Args:
        table_error: why the newest table was refused.
        port_error: which ports of single endpoints cannot be listened on, and why.
    """

    pid: int
    started_at: float
    written_at: float
    generation: int
    table_error: str | None
    port_error: str | None = None
    connections: int
    unrouted: int
    endpoints: tuple[EndpointStats, ...]


class GatewayAddress(_Frozen):
    """Where a gateway's process listens; it lives if ``pid`` is its process, and 0 while none listens yet.

    ``format`` is the :data:`localml.core.serving.routes_table.FORMAT` that it understands."""

    pid: int
    host: str
    port: int
    format: int = 0


def stats_path(data: Path) -> Path:
    """Written at most once a second, when something changed."""
    return data / FOLDER / "stats.json"


def address_path(data: Path) -> Path:
    """Written when the gateway listens."""
    return data / FOLDER / "address.json"


def write_stats(data: Path, stats: GatewayStats) -> None:
    """Put the statistics in place whole."""
    write_whole(stats_path(data), stats.model_dump_json().encode())


def read_stats(data: Path) -> GatewayStats | None:
    """The last statistics, or None if there are none that can be read."""
    try:
        return GatewayStats.model_validate_json(stats_path(data).read_bytes())
    except (OSError, ValidationError):
        return None


def write_address(data: Path, address: GatewayAddress) -> None:
    """Say where this process listens."""
    write_whole(address_path(data), address.model_dump_json().encode())


def read_address(data: Path) -> GatewayAddress | None:
    """Where the last gateway of this data directory listened, or None."""
    try:
        return GatewayAddress.model_validate_json(address_path(data).read_bytes())
    except (OSError, ValidationError):
        return None
