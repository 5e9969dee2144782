"""The end of a server: what was asked to end is gone before it, so that ``rm`` and then ``down`` leave no container."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from localml.core.work.states import TERMINAL, Desired
from localml.store.database import Database

log = logging.getLogger("localml.control")

_STEP_S = 0.05
_STATES = ", ".join(repr(str(state)) for state in sorted(TERMINAL))
_UNDER_WAY = (
    f"SELECT EXISTS (SELECT 1 FROM workload WHERE cleaned = 0 AND (desired = '{Desired.STOP}' OR state IN ({_STATES})))"
    " OR EXISTS (SELECT 1 FROM endpoint_replica AS r JOIN endpoint AS e ON e.id = r.endpoint_id"
    f" WHERE r.ended_at IS NULL AND (e.desired = '{Desired.STOP}' OR e.deleted_at IS NOT NULL))"
)


def wait_for_ends(db: Database, seconds: float, hopeless: Callable[[], bool]) -> None:
    """Wait until nothing is left of what is over or was asked to stop, while the loops still run.

    Args:
        hopeless: whether it does not get on, because the engine does not answer.
    """
    deadline = time.monotonic() + seconds
    while True:
        with db.read_raw() as connection:
            (left,) = connection.execute(_UNDER_WAY).fetchone()
        if not left:
            return
        if hopeless() or time.monotonic() >= deadline:
            log.info("what was asked to stop is not gone yet; the next start goes on with it")
            return
        time.sleep(_STEP_S)
