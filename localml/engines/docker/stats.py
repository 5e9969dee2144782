"""The daemon's resource figures for one container."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from localml.engines.base import Usage
from localml.engines.docker.containers import timestamp

_NANO = 1e-9
_CACHE_KEYS = ("inactive_file", "total_inactive_file")  # cgroup v2 and v1


def usage(stats: Mapping[str, Any]) -> Usage | None:
    """Read an answer of ``GET /containers/{id}/stats``; None if the container does not run.

    ``memory`` leaves out the page cache that the kernel would give back at once, as ``docker stats`` does.
    """
    at = timestamp(stats.get("read", ""))
    memory = stats.get("memory_stats") or {}
    if at is None or "usage" not in memory:
        return None
    cpu = stats["cpu_stats"]["cpu_usage"]
    details = memory.get("stats") or {}
    cache = next((details[key] for key in _CACHE_KEYS if key in details), 0)
    networks = (stats.get("networks") or {}).values()
    return Usage(
        at=at,
        cpu_seconds=cpu["total_usage"] * _NANO,
        memory=max(0, memory["usage"] - cache),
        cpu_user_seconds=cpu["usage_in_usermode"] * _NANO,
        cpu_system_seconds=cpu["usage_in_kernelmode"] * _NANO,
        network_rx=sum(network["rx_bytes"] for network in networks),
        network_tx=sum(network["tx_bytes"] for network in networks),
        pids=(stats.get("pids_stats") or {}).get("current"),
    )
