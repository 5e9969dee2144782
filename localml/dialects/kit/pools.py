"""Whose a pool is: to put work into it, and to know of it."""

from __future__ import annotations

from localml.core.capacity.pools import ROOT, PoolInfo
from localml.core.people.allow import Thing, allow
from localml.core.people.identity import Caller
from localml.core.people.rights import Action, MemberRole, ThingKind
from localml.dialects import REGISTRY, PoolsFor
from localml.platform import Platform

_RULES = {one.name: one.pools for one in REGISTRY}


def pool_thing(platform: Platform, caller: Caller, path: str, called: str | None = None) -> Thing:
    """A pool with whether this caller was granted it; the same for one that does not exist.

    Args:
        called: what the caller calls it; its path by default.
    """
    granted = _granted(platform, caller, path)
    return Thing(ThingKind.POOL, path, path if called is None else called, granted=granted)


def use_pool(platform: Platform, caller: Caller, path: str) -> None:
    """Make sure that the caller may put work into this pool.

    Raises:
        LocalmlError: ``FORBIDDEN``, whether or not there is such a pool.
    """
    allow(caller, Action.USE, pool_thing(platform, caller, path))


def pools_seen(platform: Platform, caller: Caller) -> list[PoolInfo]:
    """The pools that a caller may know of, by name.

    Those with a limit on them or below are for all to see, and so are granted ones and resource plans. A pool of
    members is for these; one that somebody made by naming it is for those who see something in it.
    """
    pools = platform.pools.list()
    if caller.admin:
        return pools
    shown = {one.name for one in pools if _is_for_all(one)} | platform.pools.used_in(caller.roles)
    return [one for one in pools if _seen(caller, one.name, shown)]


def _granted(platform: Platform, caller: Caller, path: str) -> bool:
    vendor, _, rest = path.partition("/")
    match _RULES.get(vendor, PoolsFor.EVERYBODY):
        case PoolsFor.EVERYBODY:
            return True
        case PoolsFor.GRANTED:
            return rest == ROOT or path in platform.pools.grants(caller.id)
        case PoolsFor.MEMBERS:
            return _role_covers(caller, _workspace(path), MemberRole.MEMBER)


def _seen(caller: Caller, path: str, shown: set[str]) -> bool:
    match _RULES.get(path.partition("/")[0], PoolsFor.EVERYBODY):
        case PoolsFor.GRANTED:
            return True
        case PoolsFor.MEMBERS:
            return not _workspace(path) or _role_covers(caller, _workspace(path), MemberRole.VIEWER)
        case PoolsFor.EVERYBODY:
            return path == ROOT or any(one == path or one.startswith(path + "/") for one in shown)


def _workspace(path: str) -> str:
    """The workspace that a pool of members is of, ``VENDOR/KIND/WORKSPACE``; empty above those."""
    return "".join(path.split("/", 2)[2:])


def _role_covers(caller: Caller, workspace: str, role: MemberRole) -> bool:
    found = caller.roles.get(workspace)
    return found is not None and found.covers(role)


def _is_for_all(pool: PoolInfo) -> bool:
    return any(one is not None for one in (pool.cpu, pool.memory, pool.gpu, pool.max_workloads, pool.labels))
