"""Resource plans: the pools below ``wmla``, as trees with what is asked for and in use.

A plan's path is that of its pool with a slash before it (``/wmla/default``), its name the path's last part; the API
finds plans by name, so what it makes has a name of its own in the whole tree. A plan is for everybody to use, and for
administrators to make and to change. What names none goes to ``default``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from localml.core.capacity.pools import PoolInfo, Usage
from localml.core.errors import Code, LocalmlError, invalid, not_found
from localml.core.people.identity import Caller
from localml.core.work.specs import NAME
from localml.core.work.states import HOLDING
from localml.core.work.workloads import Query
from localml.dialects.kit.errors import renamed
from localml.dialects.kit.pools import pools_seen, use_pool
from localml.dialects.wmla.schemas.plans import Resplan
from localml.platform import Platform

ROOT = "wmla"
"""The pool that is the tree's root."""
DEFAULT = f"{ROOT}/default"
"""The pool of those who name no plan."""
_FIXED = {ROOT: "the root of all plans", DEFAULT: "where everything goes that names no plan"}


def name_of(pool: str) -> str:
    """The name of the plan that a pool is."""
    return pool.rpartition("/")[2]


def path_of(pool: str) -> str:
    """Its path, as the scheduler's applications have it as their consumer."""
    return f"/{pool}"


def plans(platform: Platform, caller: Caller) -> dict[str, PoolInfo]:
    """Pool -> plan, of all that a caller may know of and those above them; root and default are always there."""
    every = {one.name: one for one in platform.pools.list() if _is_plan(one.name)}
    seen = {one.name for one in pools_seen(platform, caller) if one.name in every} | {DEFAULT}
    shown = sorted({above for name in seen for above in _upwards(name)})
    return {name: every.get(name) or _empty(name) for name in shown}


def find_plan(platform: Platform, caller: Caller, called: str) -> PoolInfo | None:
    """The plan of this name, or of this path; of several that have the name the highest, then the first."""
    known = plans(platform, caller)
    path = called.strip("/")
    for one in (path, f"{ROOT}/{path}"):
        if one in known:
            return known[one]
    found = [one for one in known.values() if name_of(one.name) == called]
    return min(found, key=lambda one: (one.name.count("/"), one.name), default=None)


def usable_plan(platform: Platform, caller: Caller, called: str | None, field: str = "consumer") -> str:
    """The pool for what a caller submits: that of the plan which is named, or the default one.

    Raises:
        LocalmlError: ``INVALID`` naming ``field`` when there is no such plan, ``FORBIDDEN``.
    """
    if not called or called.strip("/") == ROOT:
        return DEFAULT
    found = find_plan(platform, caller, called)
    if found is None:
        raise invalid(field, f"there is no resource plan '{called}'")
    use_pool(platform, caller, found.name)
    return found.name


def create(platform: Platform, caller: Caller, body: Resplan) -> None:
    """Make a plan below its parent, or below the root.

    Raises:
        LocalmlError: ``INVALID`` naming the member, ``CONFLICT`` for a name that is taken.
    """
    name = _name(body)
    parent = _parent(platform, caller, body) or ROOT
    if name in map(name_of, _FIXED):
        raise LocalmlError(Code.CONFLICT, f"name: '{name}' is {_FIXED[_fixed(name)]}", field="name")
    platform.pools.create(f"{parent}/{name}", body.pairs or (), below=ROOT)


def update(platform: Platform, caller: Caller, body: Resplan) -> None:
    """Give a plan other labels, or another parent while nothing is in it. What the body leaves out stays.

    Raises:
        LocalmlError: ``INVALID`` naming the member, ``NOT_FOUND``, ``WRONG_STATE`` for one in use, or root and default,
            that are to be moved.
    """
    plan = need_plan(platform, caller, _name(body))
    above = plan.name.rpartition("/")[0]
    parent = _parent(platform, caller, body) or above
    if parent != above:
        _need_movable(plan.name, parent)
    platform.pools.ensure(plan.name)
    labels = plan.labels or () if body.pairs is None else body.pairs
    platform.pools.change(plan.name, labels, to=f"{parent}/{name_of(plan.name)}".lstrip("/"))
    platform.reconciler.nudge()


def delete(platform: Platform, caller: Caller, called: str) -> None:
    """Remove a plan that nothing uses.

    Raises:
        LocalmlError: ``NOT_FOUND``, ``WRONG_STATE`` for one in use, and for root and default.
    """
    plan = need_plan(platform, caller, called)
    if plan.name in _FIXED:
        raise LocalmlError(Code.WRONG_STATE, f"{name_of(plan.name)} stays: it is {_FIXED[plan.name]}")
    with renamed(pool="resplan_name"):
        platform.pools.delete(plan.name)
    platform.reconciler.nudge()


def need_plan(platform: Platform, caller: Caller, called: str) -> PoolInfo:
    """:func:`find_plan`; ``NOT_FOUND`` where that finds none."""
    found = find_plan(platform, caller, called)
    if found is None:
        raise not_found("resource plan", called)
    return found


def answer(platform: Platform, plan: PoolInfo) -> dict[str, str]:
    """A plan's path and figures, a :class:`~localml.dialects.wmla.schemas.plans.V1Resplan`."""
    return _figures(plan, _Uses(platform))


def tree(platform: Platform, caller: Caller) -> dict[str, Any]:
    """All plans that a caller may know of, from the root on."""
    known, uses = plans(platform, caller), _Uses(platform)
    nodes: dict[str, dict[str, Any]] = {}
    for path, plan in known.items():  # a parent's path comes before its children's
        above = path.rpartition("/")[0]
        nodes[path] = node = _node(plan, uses)
        if above:
            nodes[above]["childTreeDto"].append(node)
            nodes[above]["isParent"] = "true"
    return nodes[ROOT]


def _node(plan: PoolInfo, uses: _Uses) -> dict[str, Any]:
    name = name_of(plan.name)
    return {
        "id": name,
        "name": name,
        "pid": name_of(plan.name.rpartition("/")[0]),
        "path": path_of(plan.name),
        "isParent": "false",
        "V1Resplan": _figures(plan, uses),
        "childTreeDto": [],
    }


class _Uses:
    """What is in use now: GPUs that are leased, and cores as they were measured last."""

    def __init__(self, platform: Platform) -> None:
        self._held = platform.pools.held()
        self._cores: dict[str, float] = {}
        query = Query(states=tuple(HOLDING), deleted=True, limit=1000)
        rows = [one for one in platform.workloads.page(query).items if _is_plan(one.pool)]
        measured = platform.uses.of([one.id or 0 for one in rows])
        for row in rows:
            if (use := measured.get(row.id or 0)) is not None:
                self._cores[row.pool] = self._cores.get(row.pool, 0.0) + use.cpu

    def cores(self, pool: str) -> float:
        return _sum_below(pool, self._cores.items())

    def gpus(self, pool: str) -> float:
        return _sum_below(pool, ((name, held.gpu) for name, held in self._held.items()))


def _sum_below(pool: str, amounts: Iterable[tuple[str, float]]) -> float:
    return sum(amount for name, amount in amounts if name == pool or name.startswith(pool + "/"))


def _figures(plan: PoolInfo, uses: _Uses) -> dict[str, str]:
    return {
        "path": path_of(plan.name),
        "requestcpu": _text(plan.used.cpu),
        "requestgpu": _text(plan.used.gpu),
        "usedcpu": _text(uses.cores(plan.name)),
        "usedgpu": _text(uses.gpus(plan.name)),
    }


def _text(amount: float) -> str:
    return f"{round(amount, 2):.15g}"


def _is_plan(pool: str) -> bool:
    return pool == ROOT or pool.startswith(ROOT + "/")


def _upwards(pool: str) -> Iterable[str]:
    parts = pool.split("/")
    return ("/".join(parts[:end]) for end in range(1, len(parts) + 1))


def _empty(name: str) -> PoolInfo:
    return PoolInfo(name, name.rpartition("/")[0] or None, None, None, None, None, Usage())


def _fixed(name: str) -> str:
    return next(one for one in _FIXED if name_of(one) == name)


def _name(body: Resplan) -> str:
    if not body.name:
        raise invalid("name", "is required")
    if not NAME.fullmatch(body.name):
        words = "must be 1 to 128 letters, digits, . _ ~ - (no - at its start), not '.' or '..'"
        raise invalid("name", f"{body.name!r} {words}")
    return body.name


def _parent(platform: Platform, caller: Caller, body: Resplan) -> str | None:
    if not body.parent:
        return None
    found = find_plan(platform, caller, body.parent)
    if found is None:
        raise invalid("parent", f"there is no resource plan '{body.parent}'")
    return found.name


def _need_movable(pool: str, parent: str) -> None:
    if pool in _FIXED:
        raise LocalmlError(Code.WRONG_STATE, f"{name_of(pool)} stays where it is: it is {_FIXED[pool]}", field="parent")
    if parent == pool or parent.startswith(pool + "/"):
        raise invalid("parent", f"'{name_of(parent)}' is the plan itself, or below it")
