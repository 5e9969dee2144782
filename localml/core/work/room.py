"""Whether there is room for one more workload that is not over."""

from __future__ import annotations

from sqlmodel import Session

from localml.core.errors import Code, LocalmlError
from localml.core.limits import MOST_WAITING, MOST_WAITING_OF_ONE, over
from localml.core.sql import driver
from localml.core.work.states import TERMINAL

_RETRY_S = 60
_OVER = ", ".join(f"'{state}'" for state in sorted(TERMINAL))
_ALL = f"SELECT coalesce(sum(number), 0) FROM workload_tally WHERE state NOT IN ({_OVER})"
_OF_ONE = "SELECT count(*) FROM workload WHERE ended_at IS NULL AND owner_id = ?"


def need_room(session: Session, owner_id: int) -> None:
    """Refuse a workload more while too many of all users, or of this one, are not over; only inside a write.

    Raises:
        LocalmlError: ``TOO_MANY_REQUESTS`` with the numbers.
    """
    connection = driver(session)
    (there,) = connection.execute(_ALL).fetchone()
    if there >= MOST_WAITING:
        raise _full(there + 1, MOST_WAITING, "workloads of all users that are not over")
    if there >= MOST_WAITING // 2:
        (mine,) = connection.execute(_OF_ONE, (owner_id,)).fetchone()
        if mine >= MOST_WAITING_OF_ONE:
            raise _full(mine + 1, MOST_WAITING_OF_ONE, "workloads of one user that are not over")


def _full(given: int, allowed: int, what: str) -> LocalmlError:
    error = over("queue", given, allowed, what, Code.TOO_MANY_REQUESTS)
    error.details["retry_after"] = _RETRY_S
    return error
