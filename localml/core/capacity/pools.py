"""Pools: a tree of limits on what workloads may use. Vendors see quotas, virtual clusters, resource plans."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import func
from sqlmodel import Session, col, select

from localml.core.capacity.freed import freed
from localml.core.capacity.tables import Pool, PoolGrant
from localml.core.capacity.uses import need_unused
from localml.core.errors import Code, LocalmlError, invalid, not_found
from localml.core.instances.tables import Instance
from localml.core.limits import MOST_POOL_LEVELS, MOST_POOL_PATH, MOST_POOLS, need_at_most
from localml.core.ports import Store
from localml.core.serving.specs import EndpointState, VariantSpec
from localml.core.serving.tables import Endpoint, EndpointReplica, Variant
from localml.core.sql import driver, read_rows, reader_of
from localml.core.work.reservations import reserved_cores
from localml.core.work.states import ACTIVE, HOLDING, Desired, Kind, State
from localml.core.work.tables import Workload

ROOT = "default"
_EPSILON = 1e-9
Labels = tuple[tuple[str, str], ...]
"""Key and value of each, in the order in which they were given."""
_SUMS = "SELECT pool, sum(cpu), sum(memory), sum(gpu), sum(number) FROM workload_tally"
_WANTED = (
    f"closed_at IS NULL AND deleted_at IS NULL AND desired = '{Desired.RUN}' AND state != '{EndpointState.FAILED}'"
)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a pool's workloads ask for together: all that are not over, waiting ones included."""

    cpu: float = 0.0
    memory: int = 0
    gpu: float = 0.0
    workloads: int = 0

    def plus(self, other: Usage) -> Usage:
        """Both together."""
        return Usage(
            self.cpu + other.cpu,
            self.memory + other.memory,
            self.gpu + other.gpu,
            self.workloads + other.workloads,
        )


@dataclass(frozen=True, slots=True)
class Load:
    """What goes on in a pool and below it now: what its started workloads hold, and how many still wait."""

    held: Usage = Usage()
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class PoolInfo:
    """A pool with its limits (None: no limit) and what is asked of it and of those below it. ``labels`` are those of a
    resource plan, pairs of key and value; None for a pool that was not made as one."""

    name: str
    parent: str | None
    cpu: float | None
    memory: int | None
    gpu: float | None
    max_workloads: int | None
    used: Usage
    labels: Labels | None = None


def ensure(session: Session, path: str) -> Pool:
    """The pool of this path, made with its ancestors (without limits) if it is new: ``a/b`` is a child of ``a``."""
    found = session.exec(select(Pool).where(Pool.name == path)).first()
    if found is not None:
        return found
    if not all(path.split("/")) or not path.isprintable():
        raise invalid("pool", f"{path!r} is no path of names parted by '/'")
    need_at_most("pool", path.count("/") + 1, MOST_POOL_LEVELS, "pools in each other")
    need_at_most("pool", len(path), MOST_POOL_PATH, "characters of its path")
    (there,) = driver(session).execute("SELECT count(*) FROM pool").fetchone()
    need_at_most("pool", there + 1, MOST_POOLS, "pools in all; name one that is there")
    parent_path, _, _ = path.rpartition("/")
    parent = ensure(session, parent_path) if parent_path else None
    pool = Pool(name=path, parent_id=parent.id if parent else None)
    session.add(pool)
    session.flush()
    return pool


def exists(session: Session, path: str) -> bool:
    """Whether there is a pool of this path; quick, and only inside a write."""
    return _exists(driver(session), path)


def _exists(connection: sqlite3.Connection, path: str) -> bool:
    return connection.execute("SELECT 1 FROM pool WHERE name = ?", (path,)).fetchone() is not None


class Pools:
    """The tree."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def set_limits(
        self,
        path: str,
        *,
        cpu: float | None = None,
        memory: int | None = None,
        gpu: float | None = None,
        max_workloads: int | None = None,
    ) -> PoolInfo:
        """Make the pool if it is new and set all its limits; None lifts one."""
        for name, value in (("cpu", cpu), ("memory", memory), ("gpu", gpu), ("max_workloads", max_workloads)):
            if value is not None and value < 0:
                raise invalid(name, f"must not be negative, not {value}")

        def act(session: Session) -> None:
            pool = ensure(session, path)
            pool.cpu, pool.memory, pool.gpu, pool.max_workloads = cpu, memory, gpu, max_workloads
            session.add(pool)

        self._store.write(act)
        return self.get(path)

    def ensure(self, path: str, *, max_workloads: int | None = None) -> None:
        """Make a pool with a limit if there is none of that name; an existing one keeps its own."""
        with self._store.read_raw() as connection:
            if _exists(connection, path):
                return
        self.set_limits(path, max_workloads=max_workloads)

    def create(self, path: str, labels: Labels, *, below: str) -> None:
        """Make a pool as a resource plan.

        Args:
            below: the node in whose tree its last name may be another one's just as little as its path.

        Raises:
            LocalmlError: ``CONFLICT`` for a name that is taken, ``INVALID`` beyond the limits of pools.
        """

        def act(session: Session) -> None:
            _need_free_name(session, path, below)
            pool = ensure(session, path)
            pool.labels = labels
            session.add(pool)

        self._store.write(act)

    def change(self, path: str, labels: Labels, *, to: str) -> None:
        """Give a pool other labels, and with ``to`` another place in the tree (its own path: it stays).

        Raises:
            LocalmlError: ``NOT_FOUND``; for one that is to be moved ``WRONG_STATE`` while it is in use, as
                :meth:`delete`, and ``CONFLICT`` when there is another one at that place.
        """

        def act(session: Session) -> None:
            pool = _row(session, path)
            if to != path:
                need_unused(session, pool)
                if exists(session, to):
                    raise LocalmlError(Code.CONFLICT, f"pool: there is '{to}' already", field="pool")
                parent = ensure(session, to.rpartition("/")[0])
                need_at_most("pool", to.count("/") + 1, MOST_POOL_LEVELS, "pools in each other")
                need_at_most("pool", len(to), MOST_POOL_PATH, "characters of its path")
                pool.name, pool.parent_id = to, parent.id
            pool.labels = labels
            session.add(pool)

        self._store.write(act)

    def delete(self, path: str) -> None:
        """Remove a pool that nothing uses.

        Raises:
            LocalmlError: ``NOT_FOUND``; ``WRONG_STATE`` with the numbers while there are pools below it, workloads,
                endpoints, studies or instances in it, or users it was granted to; and for the pool of those who name
                none.
        """
        if path == ROOT:
            raise LocalmlError(Code.WRONG_STATE, f"pool: '{ROOT}' is where everything goes that names no pool")

        def act(session: Session) -> None:
            pool = _row(session, path)
            need_unused(session, pool)
            session.delete(pool)

        self._store.write(act)

    def get(self, path: str) -> PoolInfo:
        """One pool; ``NOT_FOUND`` if there is none."""
        for pool in self.list():
            if pool.name == path:
                return pool
        raise not_found("pool", path)

    def list(self) -> list[PoolInfo]:
        """All pools by name, each with the use of everything below it."""
        with self._store.read() as session:
            pools = {pool.id or 0: pool for pool in session.exec(select(Pool).order_by(Pool.name))}
            own = demand_by_pool(session)
        ids = {pool.name: number for number, pool in pools.items()}
        sums: dict[int, Usage] = dict.fromkeys(pools, Usage())
        for name, used in own.items():
            number: int | None = ids.get(name)
            while number is not None:
                sums[number] = sums[number].plus(used)
                number = pools[number].parent_id
        return [
            PoolInfo(
                pool.name,
                pools[pool.parent_id].name if pool.parent_id else None,
                pool.cpu,
                pool.memory,
                pool.gpu,
                pool.max_workloads,
                sums[number],
                None if pool.labels is None else tuple((key, value) for key, value in pool.labels),
            )
            for number, pool in pools.items()
        ]

    def used_in(self, workspaces: Collection[str]) -> set[str]:
        """Paths of the pools that something in these workspaces is in, or was."""
        found: set[str] = set()
        with self._store.read() as session:
            for kind in (Workload, Endpoint, Instance):
                query = select(kind.pool).where(col(kind.workspace).in_(list(workspaces))).distinct()
                found.update(session.exec(query))
        return found

    def load(self, path: str) -> Load:
        """What goes on in a pool and below it; an empty load if there is no such pool."""
        with self._store.read() as session:
            held = usage_by_pool(session, HOLDING)
            waiting = usage_by_pool(session, frozenset({State.QUEUED}))
        return Load(_below(held, path), _below(waiting, path).workloads)

    def held(self) -> dict[str, Usage]:
        """Pool -> what its own started workloads hold; of those where there are any."""
        with self._store.read() as session:
            return usage_by_pool(session, HOLDING)

    def check_size(self, path: str, *, cpu: float, memory: int, gpu: float) -> None:
        """Whether this much can ever run in the pool, were it empty.

        Raises:
            LocalmlError: ``QUOTA`` with the numbers when it is over a limit of the pool or of one above it.
        """
        with self._store.read_raw() as connection:
            chain = _limits(connection, path)
        for pool in chain:
            for what, limit, asked in (("cpu", pool.cpu, cpu), ("memory", pool.memory, memory), ("gpu", pool.gpu, gpu)):
                if limit is not None and asked > limit + _EPSILON:
                    words = f"{what}: {asked:g} were asked for, pool '{pool.name}' has {limit:g} in all"
                    details = {"pool": pool.name, "limit": limit, "asked": asked}
                    raise LocalmlError(Code.QUOTA, words, field=what, details=details)

    def grants(self, user_id: int) -> frozenset[str]:
        """Paths of the pools that a user was granted."""
        with self._store.read() as session:
            return frozenset(session.exec(select(PoolGrant.pool).where(PoolGrant.user_id == user_id)))

    def set_grants(self, user_id: int, below: str, paths: Iterable[str]) -> None:
        """Replace a user's grants below a node of the tree.

        Raises:
            LocalmlError: ``NOT_FOUND`` when one of the pools does not exist; nothing is changed then.
        """
        wanted = sorted(set(paths))

        def act(session: Session) -> None:
            for path in wanted:
                if session.exec(select(Pool.id).where(Pool.name == path)).first() is None:
                    raise not_found("pool", path)
            for row in session.exec(select(PoolGrant).where(PoolGrant.user_id == user_id)):
                if row.pool.startswith(below + "/"):
                    session.delete(row)
            session.flush()
            session.add_all(PoolGrant(user_id=user_id, pool=path) for path in wanted)

        self._store.write(act)


def _row(session: Session, path: str) -> Pool:
    pool = session.exec(select(Pool).where(Pool.name == path)).first()
    if pool is None:
        raise not_found("pool", path)
    return pool


def _need_free_name(session: Session, path: str, below: str) -> None:
    last = path.rpartition("/")[2]
    for name in session.exec(select(Pool.name)):
        if name == path or (name.startswith(below + "/") and name.rpartition("/")[2] == last):
            raise LocalmlError(Code.CONFLICT, f"name: '{last}' is already used by pool '{name}'", field="name")


def _below(uses: dict[str, Usage], path: str) -> Usage:
    """The sum over a pool and those below it."""
    found = [used for name, used in uses.items() if name == path or name.startswith(path + "/")]
    return Usage(
        sum(one.cpu for one in found),
        sum(one.memory for one in found),
        sum(one.gpu for one in found),
        sum(one.workloads for one in found),
    )


class _Limits(NamedTuple):
    """What is set on one pool."""

    name: str
    cpu: float | None
    memory: int | None
    gpu: float | None
    max_workloads: int | None


def _limits(connection: sqlite3.Connection, path: str) -> list[_Limits]:
    """The pool of this path and those above it, the nearest first, as far as they have a limit."""
    parts = path.split("/")
    paths = ["/".join(parts[:end]) for end in range(len(parts), 0, -1)]
    where = f"name IN ({', '.join('?' * len(paths))})"
    found = [_Limits(*row) for row in read_rows(connection, Pool, _Limits._fields, where, paths)]
    found.sort(key=lambda pool: -len(pool.name))
    return [pool for pool in found if any(limit is not None for limit in pool[1:])]


def usage_by_pool(session: Session, states: frozenset[State] = ACTIVE) -> dict[str, Usage]:
    """pool -> sums over its own workloads in these states; by default all that are not over. Of what runs, what
    replicas have given back whose programs have exited does not count."""
    session.flush()  # the driver doesn't see what the session still holds
    words = [str(state) for state in states]
    query = f"{_SUMS} WHERE state IN ({', '.join('?' * len(words))}) AND number > 0 GROUP BY pool"
    found = {
        name: Usage(float(cpu or 0), int(memory or 0), float(gpu or 0), int(count))
        for name, cpu, memory, gpu, count in reader_of(session).execute(query, words)
    }
    for less in freed(reader_of(session)) if states & HOLDING else ():
        if less.state in states and less.pool in found:
            found[less.pool] = found[less.pool].plus(Usage(-less.cpu, -less.memory, -less.gpu, -less.number))
    return found


def demand_by_pool(session: Session) -> dict[str, Usage]:
    """pool -> what is asked for there: workloads that are not over, and replicas that endpoints want and have not got
    yet."""
    found = usage_by_pool(session)
    for number, pool, scale in list(read_rows(reader_of(session), Endpoint, ("id", "pool", "scale"), _WANTED)):
        live = select(func.count()).where(
            EndpointReplica.endpoint_id == number, col(EndpointReplica.ended_at).is_(None)
        )
        missing = scale - session.exec(live).one()
        variants = select(Variant.spec).where(Variant.endpoint_id == number, col(Variant.ended_at).is_(None))
        newest = session.exec(variants.order_by(col(Variant.id).desc())).first()
        if missing > 0 and newest is not None:
            each = VariantSpec.model_validate_json(newest).resources
            cores = reserved_cores(each, Kind.ENDPOINT)
            more = Usage(cores * missing, (each.memory or 0) * missing, each.gpu * missing, missing)
            found[pool] = found.get(pool, Usage()).plus(more)
    return found


def check_quota(session: Session, path: str, *, cpu: float, memory: int, gpu: float, count: int = 1) -> None:
    """Whether the pool and its ancestors have room for this much more, counting everything that is not over.

    Args:
        cpu, memory, gpu: sums over ``count`` workloads.

    Raises:
        LocalmlError: ``QUOTA`` with the numbers, for dialects that refuse at submission.
    """
    chain = _limits(reader_of(session), path)
    if not chain:
        return
    own = demand_by_pool(session)
    for pool in chain:
        below = _below(own, pool.name)
        for what, limit, used, asked in (
            ("cpu", pool.cpu, below.cpu, cpu),
            ("memory", pool.memory, below.memory, memory),
            ("gpu", pool.gpu, below.gpu, gpu),
        ):
            if limit is not None and asked > 0 and used + asked > limit + _EPSILON:
                raise LocalmlError(
                    Code.QUOTA,
                    f"{what}: pool '{pool.name}' has {limit:g} in all, {used:g} in use; {asked:g} more were asked for",
                    field=what,
                    details={"pool": pool.name, "limit": limit, "used": used, "asked": asked},
                )
        if pool.max_workloads is not None and below.workloads + count > pool.max_workloads:
            raise LocalmlError(
                Code.QUOTA, f"pool '{pool.name}' takes at most {pool.max_workloads} workloads at a time", field="pool"
            )
