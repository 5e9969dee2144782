"""Active checks: a replica that is well again comes back at once, one that hangs is found before a client does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from localml.core.serving.routes_table import HealthCheck, ReplicaState
from localml.gateway.routing import Replica, Router
from localml.gateway.upstream import Answer, Broken, Connection, Unreachable

log = logging.getLogger("localml.gateway")

_NO_SUCH_PAGE = (404, 405)


async def probe(replica: Replica, check: HealthCheck) -> bool | None:
    """Whether the replica is well; None if it did not answer in time while it works on requests.

    A busy server with one thread answers nothing else, and that is no failure.
    """
    connection: Connection | None = None
    try:
        async with asyncio.timeout(check.timeout_s):
            connection = await replica.pool.acquire()
            answer = await _get(connection, replica, check.path)
    except TimeoutError:
        return None if replica.inflight else False
    except (Unreachable, Broken):
        return None if connection is not None and connection.stale else False
    finally:
        if connection is not None:
            replica.pool.give_back(connection)
    return 200 <= answer.status < 300 or answer.status in _NO_SUCH_PAGE


async def _get(connection: Connection, replica: Replica, path: str) -> Answer:
    head = connection.begin(without_body=False)
    lines = b"host: %b\r\n%buser-agent: localml-gateway\r\naccept: */*\r\n" % (replica.pool.netloc, replica.greeting)
    connection.write(b"GET %b HTTP/1.1\r\n%b\r\n" % (path.encode(), lines))
    answer = await head
    if answer.status != 101:
        while await answer.body.read():
            pass
    return answer


class Prober:
    """One task per replica that is in the table and has a check.

    Args:
        changed: called when a replica's health turned.
    """

    def __init__(self, router: Router, changed: Callable[[], None]) -> None:
        self._router, self._changed = router, changed
        self._tasks: dict[Replica, tuple[HealthCheck, asyncio.Task[None]]] = {}

    def update(self) -> None:
        """Follow the table: start checks of new replicas, end those of gone ones."""
        wanted = {
            replica: check
            for endpoint in self._router.endpoints.values()
            for variant in endpoint.variants.values()
            if (check := variant.health or endpoint.route.health) is not None
            for replica in variant.replicas
            if replica.state is ReplicaState.READY
        }
        for replica, (check, task) in list(self._tasks.items()):
            if wanted.get(replica) != check:
                task.cancel()
                del self._tasks[replica]
        for replica, check in wanted.items():
            if replica not in self._tasks:
                task = asyncio.get_running_loop().create_task(self._watch(replica, check))
                self._tasks[replica] = (check, task)

    async def _watch(self, replica: Replica, check: HealthCheck) -> None:
        loop = asyncio.get_running_loop()
        while True:
            out = replica.left_out_until - loop.time()
            # one that is out of use is asked more often: it may be well long before its time is over
            await asyncio.sleep(min(check.interval_s, 1.0) if out > 0 else check.interval_s)
            was_well = not replica.failures
            try:
                well = await probe(replica, check)
            except Exception:
                log.exception("checking replica %s failed", replica.id)
                continue
            if well:
                replica.succeeded()
            elif well is False:
                replica.failed(loop.time())
                replica.keep_out(loop.time() + check.interval_s + check.timeout_s)  # until the next check has spoken
            if well is not None and well != was_well:
                log.info("replica %s at %s is %s", replica.id, replica.url, "well" if well else "not well")
                self._changed()

    async def close(self) -> None:
        """End all checks."""
        tasks = [task for _, task in self._tasks.values()]
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
