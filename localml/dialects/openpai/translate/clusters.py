"""Virtual clusters: pools below ``openpai``, who may use them, and what goes on in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from localml.core.capacity.pools import PoolInfo
from localml.core.errors import Code, LocalmlError
from localml.core.people.allow import may
from localml.core.people.identity import Caller
from localml.core.people.rights import Action
from localml.dialects.kit.pools import pool_thing
from localml.dialects.openpai.errors import missing_cluster, unknown_cluster
from localml.platform import Platform

POOL = "openpai"
DEFAULT = "default"
_MEGABYTE = 1 << 20


def pool_of(cluster: str) -> str:
    """The pool behind a virtual cluster."""
    return f"{POOL}/{cluster}"


def usable_pool(platform: Platform, caller: Caller, cluster: str) -> str:
    """The pool that a caller's job goes to.

    Raises:
        LocalmlError: ``NOT_FOUND`` when there is no such virtual cluster, ``FORBIDDEN`` when the caller may not use it.
    """
    path = pool_of(cluster)
    if cluster != DEFAULT and ("/" in cluster or path not in {pool.name for pool in platform.pools.list()}):
        raise unknown_cluster(cluster, "virtualCluster")
    if not may(caller, Action.USE, pool_thing(platform, caller, path, cluster)):
        raise LocalmlError(Code.FORBIDDEN, f"virtualCluster: {caller.name} may not use {cluster}")
    return path


def assign(platform: Platform, user: Caller, clusters: str) -> None:
    """Let a user use these virtual clusters (names parted by commas) and no others but ``default``.

    Raises:
        LocalmlError: ``NOT_FOUND`` naming one that does not exist.
    """
    names = [name for one in clusters.split(",") if (name := one.strip())]
    known = {pool.name for pool in platform.pools.list()}
    for name in names:
        if "/" in name or pool_of(name) not in known:
            raise unknown_cluster(name, "virtualClusters")
    platform.pools.set_grants(user.id, POOL, [pool_of(name) for name in names])


def all_clusters(platform: Platform) -> dict[str, dict[str, Any]]:
    """Every virtual cluster by name."""
    pools = platform.pools.list()
    names = [pool.name.removeprefix(f"{POOL}/") for pool in pools if pool.parent == POOL]
    return {name: _answer(platform, pools, name) for name in names}


def one_cluster(platform: Platform, name: str) -> dict[str, Any]:
    """One virtual cluster; 404 if there is none of that name."""
    pools = platform.pools.list()
    if not any(pool.name == pool_of(name) and pool.parent == POOL for pool in pools):
        raise missing_cluster(name)
    return _answer(platform, pools, name)


def _answer(platform: Platform, pools: Sequence[PoolInfo], name: str) -> dict[str, Any]:
    machine = platform.hardware.machine()
    size = {"cpu": machine.cpu, "memory": float(machine.memory), "gpu": float(len(platform.gpus.devices()))}
    load = platform.pools.load(pool_of(name))
    held = load.held
    chain = [pool for pool in pools if pool.name in (POOL, pool_of(name))]
    limits = [(what, limit) for pool in chain for what in size if (limit := getattr(pool, what)) is not None]
    capacity = min([100.0, *(_share(limit, size[what]) for what, limit in limits if size[what] > 0)])
    used = max(_share(getattr(held, what), whole) for what, whole in size.items())
    return {
        "capacity": capacity,
        "maxCapacity": capacity,
        "usedCapacity": used,
        "numActiveJobs": held.workloads,
        "numJobs": held.workloads + load.waiting,
        "numPendingJobs": load.waiting,
        "resourcesUsed": {"memory": held.memory / _MEGABYTE, "vCores": held.cpu, "GPUs": held.gpu},
    }


def _share(part: float, whole: float) -> float:
    return round(100.0 * part / whole, 2) if whole else 0.0
