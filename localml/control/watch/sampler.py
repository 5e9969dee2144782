"""Measuring what replicas use: every few seconds while something runs, into the series of their workloads.

The names are those under which Kubernetes' cAdvisor gives the same figures. One thread does it, apart from the
control loop, which never waits for it; with nothing running the thread sleeps until something changes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sqlalchemy import select

from localml.control.worker import Worker
from localml.core.capacity.tables import GpuLease
from localml.core.clock import Clock
from localml.core.ports import Store
from localml.core.series.samples import Samples, replica_name
from localml.core.series.thinning import thin
from localml.core.series.uses import CPU as CPU
from localml.core.series.uses import MEMORY as MEMORY
from localml.core.sql import table_of
from localml.core.subjects import Subject
from localml.core.work.states import AttemptState
from localml.core.work.tables import Attempt
from localml.engines.base import Engine, EngineError, EngineUnreachable, Usage
from localml.gpus import GpuUsage

log = logging.getLogger("localml.control")

INTERVAL_S = 5.0
FIRST_S = 1.0
"""Replicas that end sooner than this after the first of them started are not measured: they come by the hundred."""
THIN_S = 600.0
_AT_A_TIME = 8

CPU_USER = "container_cpu_user_seconds_total"
CPU_SYSTEM = "container_cpu_system_seconds_total"
RECEIVED = "container_network_receive_bytes_total"
SENT = "container_network_transmit_bytes_total"
GPU_MEMORY = "container_accelerator_memory_used_bytes"
GPU_DUTY = "container_accelerator_duty_cycle"

_A, _L = table_of(Attempt), table_of(GpuLease)
_RUNNING = select(_A.c.id, _A.c.workload_id, _A.c.role, _A.c.index, _A.c.name).where(
    _A.c.removed.is_(False), _A.c.state == AttemptState.RUNNING, _A.c.exited_at.is_(None)
)
_HELD = select(_L.c.attempt_id, _L.c.gpu).where(_L.c.released_at.is_(None))

Named = list[tuple[str, float, float]]


@dataclass(frozen=True, slots=True)
class Running:
    """A replica's container, and the GPUs that it holds."""

    workload_id: int
    replica: str
    name: str
    gpus: tuple[str, ...]


class Sampler:
    """Measures replicas and thins out old points.

    Args:
        store: says what runs.
        samples: where the points go.
        gpus: asked for the use of all GPUs, only while somebody holds one.
        changed: told the id of each workload that was measured; for followers.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine,
        samples: Samples,
        clock: Clock,
        *,
        gpus: Callable[[], Mapping[str, GpuUsage]] = dict,
        changed: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._engine = engine
        self._samples = samples
        self._clock = clock
        self._gpus = gpus
        self._changed = changed
        self._worker = Worker("sampler", self.tick, what="measuring", settle=FIRST_S)
        self._due = 0.0  # monotonic time before which nothing is measured
        self._thin_at = 0.0

    def start(self) -> None:
        """Measure on a thread of its own; an earlier server may have left replicas, or old points."""
        self._worker.start(after=FIRST_S)

    def close(self) -> None:
        """Stop measuring."""
        self._worker.close()

    def nudge(self) -> None:
        """Something changed; costs next to nothing."""
        self._worker.nudge()

    def tick(self) -> float | None:
        """A round, if it is time for one. Returns the seconds until the next one; None when nothing runs."""
        began = time.monotonic()
        if began < self._due:
            return self._due - began
        try:
            running = self.measure()
        finally:
            self.thin_out()
        if not running:
            return None
        self._due = began + INTERVAL_S
        return max(0.0, self._due - time.monotonic())

    def measure(self) -> bool:
        """One round over all running replicas. False when there are none, and so nothing to come back for."""
        replicas = self.running()
        usage = self._gpus() if any(one.gpus for one in replicas) else {}
        # some Docker daemons take a second for each answer, in which they do nothing: several are asked at a time
        with ThreadPoolExecutor(_AT_A_TIME, "localml-stats") as threads:
            for one, found in zip(replicas, threads.map(self._ask, replicas), strict=True):
                if found is not None:
                    self._record(one, found, usage)
        return bool(replicas)

    def _ask(self, one: Running) -> Usage | None:
        if self._worker.stopping.is_set():
            return None
        try:
            return self._engine.stats(one.name)
        except (EngineError, EngineUnreachable) as error:
            log.debug("no figures of %s: %s", one.name, error)
            return None

    def _record(self, one: Running, found: Usage, usage: Mapping[str, GpuUsage]) -> None:
        gpus = [usage[gpu] for gpu in one.gpus if gpu in usage]
        self._samples.add_measured(Subject.workload(one.workload_id), one.replica, counters(found), gauges(found, gpus))
        self._changed(one.workload_id)

    def running(self) -> list[Running]:
        """The replicas that run according to the records."""
        with self._store.read() as session:
            connection = session.connection()
            rows = connection.execute(_RUNNING).all()
            held: dict[int, list[str]] = {}
            for attempt, gpu in connection.execute(_HELD) if rows else ():
                held.setdefault(attempt, []).append(gpu)
        return [
            Running(workload, replica_name(role, index), name, tuple(held.get(attempt, ())))
            for attempt, workload, role, index, name in rows
        ]

    def thin_out(self) -> bool:
        """Let old points go, if that was not done in the last ten minutes. True if it was done now."""
        now = self._clock.now()
        if now < self._thin_at:
            return False
        self._thin_at = now + THIN_S
        thin(self._store, now, self._worker.stopping.is_set)
        return True


def counters(found: Usage) -> Named:
    """What grows: seconds of CPU, bytes over the network; (name, value, time)."""
    values = {
        CPU: found.cpu_seconds,
        CPU_USER: found.cpu_user_seconds,
        CPU_SYSTEM: found.cpu_system_seconds,
        RECEIVED: found.network_rx,
        SENT: found.network_tx,
    }
    return [(name, float(value), found.at) for name, value in values.items() if value is not None]


def gauges(found: Usage, gpus: Sequence[GpuUsage]) -> Named:
    """What is: bytes of memory, and of the replica's GPUs together their memory in bytes and mean use in percent."""
    named = [(MEMORY, float(found.memory), found.at)]
    memory = [gpu.memory_used for gpu in gpus if gpu.memory_used is not None]
    duty = [gpu.utilisation for gpu in gpus if gpu.utilisation is not None]
    if memory:
        named.append((GPU_MEMORY, float(sum(memory)), found.at))
    if duty:
        named.append((GPU_DUTY, sum(duty) / len(duty), found.at))
    return named
