"""What keeps a pool from being removed or moved: everything that is in it, or will be."""

from __future__ import annotations

import sqlalchemy
from sqlalchemy import ColumnElement, func
from sqlmodel import Session, col

from localml.core.capacity.tables import Pool, PoolGrant
from localml.core.errors import Code, LocalmlError
from localml.core.instances.tables import Instance
from localml.core.serving.tables import Endpoint
from localml.core.studies.tables import Study
from localml.core.work.states import ACTIVE
from localml.core.work.tables import Workload

_ONE = {
    "pools": "pool",
    "workloads": "workload",
    "endpoints": "endpoint",
    "studies": "study",
    "instances": "instance",
    "grants": "grant",
}
_newest_run = col(Instance.workload_id) == col(Workload.id)


def _uses(session: Session, pool: Pool) -> dict[str, int]:
    """What keeps a pool from being removed -> how much of it there is."""

    def count(*conditions: ColumnElement[bool]) -> int:
        return int(session.execute(sqlalchemy.select(func.count()).where(*conditions)).scalar_one())

    return {
        "pools": count(col(Pool.parent_id) == pool.id),
        "workloads": count(col(Workload.pool) == pool.name, col(Workload.state).in_([*ACTIVE])),
        "endpoints": count(col(Endpoint.pool) == pool.name, col(Endpoint.closed_at).is_(None)),
        "studies": count(col(Study.pool) == pool.name, col(Study.ended_at).is_(None), col(Study.deleted_at).is_(None)),
        "instances": count(col(Instance.pool) == pool.name, _newest_run, col(Workload.deleted_at).is_(None)),
        "grants": count(col(PoolGrant.pool) == pool.name),
    }


def need_unused(session: Session, pool: Pool) -> None:
    """Make sure that nothing is in a pool.

    Raises:
        LocalmlError: ``WRONG_STATE`` with the numbers.
    """
    uses = {what: count for what, count in _uses(session, pool).items() if count}
    if uses:
        words = ", ".join(f"{count} {what if count != 1 else _ONE[what]}" for what, count in uses.items())
        raise LocalmlError(Code.WRONG_STATE, f"pool: '{pool.name}' is in use: {words}", field="pool", details=uses)
