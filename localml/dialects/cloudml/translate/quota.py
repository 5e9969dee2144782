"""Pools of organisations, and what is answered about them.

Each organisation has a pool of its own for each kind of workload, such as ``cloudml/train/default``; limits may be set
on it, or on ``cloudml/train`` for all organisations together. What has no limit shows the machine's size.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from localml.core.capacity.pools import PoolInfo, Usage
from localml.dialects.cloudml.schemas.training import Quota
from localml.dialects.cloudml.translate.amounts import cpu_text, gpu_text, memory_text
from localml.platform import Platform

POOL = "cloudml"
KINDS = ("train", "model", "dev")
_NO_LIMIT = "-1"


def pool_of(kind: str, org: str) -> str:
    """The pool that an organisation's workloads of this kind go to."""
    return f"{POOL}/{kind}/{org}"


@dataclass(frozen=True, slots=True)
class _Account:
    """Limits and use of one pool; ``count`` None is no limit."""

    cpu: float
    memory: int
    gpu: float
    count: int | None
    used: Usage


def quota_records(platform: Platform, orgs: Iterable[str]) -> list[Quota]:
    """One record for each organisation."""
    pools = {pool.name: pool for pool in platform.pools.list()}
    machine = platform.hardware.machine()
    size = (machine.cpu, machine.memory, len(platform.gpus.devices()))
    return [_record(pools, size, org) for org in orgs]


def _record(pools: dict[str, PoolInfo], size: tuple[float, int, int], org: str) -> Quota:
    members: dict[str, str] = {"org_id": org, "org_name": org}
    for kind in KINDS:
        account = _account(pools, size, pool_of(kind, org))
        members |= _amounts(kind, account)
        members[f"{kind}_count_quota"] = _NO_LIMIT if account.count is None else str(account.count)
        members[f"{kind}_count_used"] = str(account.used.workloads)
    total = _account(pools, size, POOL, [pool_of(kind, org) for kind in KINDS])
    boards = _account(pools, size, pool_of("tensorboard", org))
    members |= _amounts("total", total)
    members["tensorboard_quota"] = _NO_LIMIT if boards.count is None else str(boards.count)
    members["tensorboard_used"] = str(boards.used.workloads)
    return Quota.model_validate(members)


def _account(
    pools: dict[str, PoolInfo], size: tuple[float, int, int], name: str, used_by: Iterable[str] = ()
) -> _Account:
    """The strictest limits of a pool and those above it, never less than what is used."""
    parts = name.split("/")
    chain = [pools[path] for end in range(1, len(parts) + 1) if (path := "/".join(parts[:end])) in pools]
    uses = [pools[path].used for path in (used_by or (name,)) if path in pools]
    used = Usage(
        sum(one.cpu for one in uses),
        sum(one.memory for one in uses),
        sum(one.gpu for one in uses),
        sum(one.workloads for one in uses),
    )
    counts = [pool.max_workloads for pool in chain if pool.max_workloads is not None]
    return _Account(
        cpu=max(used.cpu, min([size[0], *(pool.cpu for pool in chain if pool.cpu is not None)])),
        memory=max(used.memory, min([size[1], *(pool.memory for pool in chain if pool.memory is not None)])),
        gpu=max(used.gpu, min([size[2], *(pool.gpu for pool in chain if pool.gpu is not None)])),
        count=min(counts) if counts else None,
        used=used,
    )


def _amounts(kind: str, account: _Account) -> dict[str, str]:
    return {
        f"{kind}_memory_quota": memory_text(account.memory),
        f"{kind}_memory_used": memory_text(account.used.memory),
        f"{kind}_cpu_quota": cpu_text(account.cpu),
        f"{kind}_cpu_used": cpu_text(account.used.cpu),
        f"{kind}_gpu_quota": gpu_text(account.gpu),
        f"{kind}_gpu_used": gpu_text(account.used.gpu),
    }
